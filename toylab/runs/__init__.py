"""Runs as folders: jobs, the registry of studies, verdicts, sweeps and the scoreboard."""
