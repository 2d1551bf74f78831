"""The spine: config, records, errors, pipeline, command line. Light to import."""

__version__ = "0.1.0"
