"""A certificate authority's PEM files, made on the spot, and what each end of a connection is told of them."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import trustme


class Certificates:
    """The authority's, and a certificate for 127.0.0.1 and localhost that servers and clients use."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(self.key))

    @property
    def client(self) -> dict[str, str]:
        """The environment of a front end."""
        return {
            "ELASTICREC_TLS_CA": str(self.ca),
            "ELASTICREC_TLS_CERT": str(self.cert),
            "ELASTICREC_TLS_KEY": str(self.key),
        }

    @property
    def listener(self) -> dict[str, str]:
        """The environment of a shard's listener."""
        return {
            "ELASTICREC_LISTEN_CA": str(self.ca),
            "ELASTICREC_LISTEN_CERT": str(self.cert),
            "ELASTICREC_LISTEN_KEY": str(self.key),
        }

    @property
    def server(self) -> list[str]:
        """Flags of tritonserver."""
        return [
            "--grpc-use-ssl=true",
            "--grpc-use-ssl-mutual=true",
            f"--grpc-server-cert={self.cert}",
            f"--grpc-server-key={self.key}",
            f"--grpc-root-cert={self.ca}",
        ]

    def credentials(self, own: Certificates | None) -> grpc.ChannelCredentials:
        """Of a client that trusts this authority, and shows the certificate of `own`."""
        shown = (own.key.read_bytes(), own.cert.read_bytes()) if own else (None, None)
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), *shown)

    def context(self, own: Certificates | None) -> ssl.SSLContext:
        """Likewise, for Python's own sockets, to speak HTTP/2."""
        made = ssl.create_default_context(cafile=self.ca)
        if own:
            made.load_cert_chain(own.cert, own.key)
        made.set_alpn_protocols(["h2"])
        return made

    def replace(self, other: Certificates) -> None:
        """Renew all files by those of another, as Kubernetes swaps a secret's."""
        for mine, new in ((self.ca, other.ca), (self.cert, other.cert), (self.key, other.key)):
            part = mine.with_suffix(".part")
            part.write_bytes(new.read_bytes())
            part.rename(mine)
