"""The Flask extension: streams, publishing and authorization in a Flask application."""
