-- Run once, when PostgreSQL makes its first files. POSTGRES_DB is the user's own, `beholder`: what users tell.
CREATE DATABASE mlflow;
