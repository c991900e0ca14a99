"""What the routers of a model do: which experts a token went to, and how busy the experts are."""
