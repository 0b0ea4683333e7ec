"""nginx and HAProxy before a server of ours, set to pass on as much as they can be made to."""

import os
import shutil
import socket
import subprocess

from .wait import wait_until

NGINX = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")
HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")

NGINX_CONF = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 512; }}
http {{
  access_log off; ignore_invalid_headers off; underscores_in_headers on; large_client_header_buffers 4 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream back {{ server 127.0.0.1:{back}; keepalive 2; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://back; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Connection ""; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"""

HAPROXY_CONF = """
global
  maxconn 500
defaults
  mode http
  option accept-invalid-http-request
  option forwardfor
  http-reuse always
  timeout connect 2s
  timeout client 5s
  timeout server 5s
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server one 127.0.0.1:{back} pool-max-conn 2 {options}
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Front:
    """One proxy before the port `back`; `options` are for HAProxy's line of the server."""

    def __init__(self, kind, folder, back, options=""):
        self.port = free_port()
        self.folder = folder / f"{kind}-{self.port}"
        self.folder.mkdir()
        conf = self.folder / "conf"
        text = NGINX_CONF if kind == "nginx" else HAPROXY_CONF
        conf.write_text(text.format(folder=self.folder, port=self.port, back=back, options=options))
        command = [NGINX, "-p", str(self.folder), "-c", str(conf)] if kind == "nginx" else [HAPROXY, "-f", str(conf)]
        with open(self.folder / "out", "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        wait_until(self.listens, 10, lambda: (self.folder / "out").read_text())

    def listens(self):
        try:
            self.dial().close()
            return True
        except OSError:
            return False

    def dial(self, source="127.0.0.1"):
        return socket.create_connection(("127.0.0.1", self.port), 10, (source, 0))

    def stop(self):
        assert self.process.poll() is None, (self.folder / "out").read_text()
        self.process.terminate()
        self.process.wait(30)
