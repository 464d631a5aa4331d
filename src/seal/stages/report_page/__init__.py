"""The page of a report: its words, its charts and its template; a function of report.json."""
