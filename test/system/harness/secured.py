"""A client of TLS whose every byte can be had: what a socket does, over TLS, with both ways to end a side."""

import contextlib
import socket
import ssl


def context(authority=None, certificate=None, lowest=None, highest=None, old=False):
    """certificate: (certificate, key), files, of the client. old: what OpenSSL calls insecure, too."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority:
        made.load_verify_locations(authority)
    else:
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if certificate:
        made.load_cert_chain(*certificate)
    if old:
        made.set_ciphers("ALL:@SECLEVEL=0")
        made.minimum_version = ssl.TLSVersion.TLSv1
    if lowest:
        made.minimum_version = lowest
    if highest:
        made.maximum_version = highest
    return made


def server_context(issued, old=False):
    """issued: certificate and key, files. old: it speaks nothing newer than TLS 1.1."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(*issued)
    if old:
        made.set_ciphers("ALL:@SECLEVEL=0")
        made.minimum_version, made.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return made


class Secured:
    """notify=False: it ends its side without a word of TLS. An end of the other side without one is an error."""

    def __init__(self, sock, tls, name="localhost", notify=True, session=None):
        self.socket, self.notify = sock, notify
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = tls.wrap_bio(self._in, self._out, server_hostname=name, session=session)
        try:
            self._do(self.tls.do_handshake)
        except BaseException:
            sock.close()
            raise

    def _flush(self):
        data = self._out.read()
        if data:
            self.socket.sendall(data)

    def _do(self, operation, *args):
        while True:
            try:
                result = operation(*args)
                self._flush()
                return result
            except ssl.SSLWantReadError:
                self._flush()
                data = self.socket.recv(65536)
                self._in.write(data) if data else self._in.write_eof()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert
                raise

    def recv(self, n):
        try:
            return self._do(self.tls.read, n)
        except ssl.SSLZeroReturnError:
            return b""

    def sendall(self, data):
        self.tls.write(data)
        self._flush()

    def raw(self, data):
        """Bytes that are no TLS, or a piece of it."""
        self.socket.sendall(data)

    def shutdown(self, how):
        if self.notify:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.unwrap()
            self._flush()
        self.socket.shutdown(how)

    def __getattr__(self, name):
        return getattr(self.socket, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def dial(port, tls, timeout=10, **options):
    return Secured(socket.create_connection(("127.0.0.1", port), timeout), tls, **options)
