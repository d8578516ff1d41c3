"""Which hosts are this machine."""

from ipaddress import IPv6Address, ip_address


def is_loopback(host: str) -> bool:
    """By what is written, not by what a resolver says (RFC 6761 §6.3 fixes `localhost`)."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback  # before Python 3.13 is_loopback is false for these
    return address.is_loopback
