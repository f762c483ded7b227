-- A batch by a statement of its own.
SELECT soak.ingest();
