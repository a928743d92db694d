"""How vmheal is packaged for Debian."""
