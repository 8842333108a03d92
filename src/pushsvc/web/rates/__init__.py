"""How much a subject or an address may do: requests, events and connections a second, and streams at a time."""
