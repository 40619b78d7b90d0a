"""A bag through the pipeline, and what is made of it: results.mcap, summary.json, report.html."""
