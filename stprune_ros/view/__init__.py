"""A live page of a running node: what was heard of it, the page, and the server."""
