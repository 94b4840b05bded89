"""The report: one HTML file over evaluation folders, each part beside its template."""
