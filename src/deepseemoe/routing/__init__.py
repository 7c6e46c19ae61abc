"""What the routers do: load, co-activation, vocabulary and domains of every expert."""
