"""Pages for people: what a budget bought, as one HTML file that opens anywhere."""
