"""The tunnel: the draft's streams and TLVs, the control stream, authentication, flows at both ends. Sans-IO.

Read types.py first, then docs/protocol.md; client.py and concentrator.py are what the program uses.
"""
