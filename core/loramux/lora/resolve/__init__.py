"""From a name to an adapter: the catalog of names and the chain of resolvers."""
