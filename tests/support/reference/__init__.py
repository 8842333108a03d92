"""What several tests hold the program against: plain accounts of what went in, which do not compute as it does."""
