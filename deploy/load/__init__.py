"""Load: profiles of a day's arrivals, an open-loop generator, its books, and the demo."""
