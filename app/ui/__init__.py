"""What the tabs share on the page: events, links, HTML, theme, verdicts on tales."""
