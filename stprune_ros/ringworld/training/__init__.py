"""Training of the bundled model; nothing that runs in a vehicle imports it."""
