"""HTTP only: schemas, routes and one table of errors. No SQL and no NumPy here."""
