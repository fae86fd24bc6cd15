"""Note sulla GPU: ciò che le pagine chiamano per nome quando una formula diventa macchina."""
