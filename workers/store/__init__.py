"""PostgreSQL: migrations, named queries and the thin Python that calls them."""
