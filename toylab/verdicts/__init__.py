"""Claims of papers, the criteria that judge them, and intervals over seeds."""
