"""The studies, a folder each: settings and jobs, data, measures, claims, figures."""
