"""Questions to the tables of a finished run: `deepseemoe look`, SQL, and the page of schemas."""
