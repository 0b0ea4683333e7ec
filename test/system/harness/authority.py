"""A certificate authority for one test, made with openssl."""

import subprocess


class Authority:
    def __init__(self, folder, name):
        self.folder = folder / name
        self.folder.mkdir()
        self.name = name
        self.certificate = self.folder / "ca.pem"
        self._openssl("req", "-x509", *self._key("ca"), "-out", self.certificate, "-days", "2",
                      "-subj", f"/CN={name}")

    def _key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", self.folder / f"{name}.key"]

    @staticmethod
    def _openssl(*words):
        done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr

    def issue(self, name, san, days=2):
        """(certificate, key), files. san: what it is good for, as "IP:127.0.0.1". days below 0: it was."""
        request, certificate = self.folder / f"{name}.csr", self.folder / f"{name}.pem"
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={san}\n")
        self._openssl("req", "-new", *self._key(name), "-out", request, "-subj", f"/CN={name}")
        self._openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey",
                      self.folder / "ca.key", "-CAcreateserial", "-days", days, "-out", certificate,
                      "-extfile", extensions)
        return certificate, self.folder / f"{name}.key"
