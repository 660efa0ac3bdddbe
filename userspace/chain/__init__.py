"""Other proxies before and behind us: Shadowsocks and its kin as front doors, and egress through a further proxy."""
