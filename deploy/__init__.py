"""How Tidegate is run: the `tidegate` command, embedded servers, campaigns, load."""
