"""HTTP around the routes: the server, uploads, headers, CORS and the API pages."""
