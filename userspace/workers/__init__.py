"""``quicsocks concentrator --workers N``: N processes on one port, and the supervisor that starts and answers for them."""
