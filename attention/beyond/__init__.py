"""Oltre l'articolo: ciò che serve a provarlo, e che l'articolo non contiene."""
