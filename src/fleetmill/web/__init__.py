"""Pages in a browser, made on the server: the live page of a factory, and the report that shares its look."""
