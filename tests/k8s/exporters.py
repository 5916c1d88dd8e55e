"""A page as kube-state-metrics, the kubelet and KEDA would serve it: names and labels as their documents have them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from repo_builder.repository.built_fleet import BuiltFleet


def page(fleet: BuiltFleet, namespace: str) -> str:
    """Of each service: 2 pods of 3 ready, 4 at most, 300 of 400 bytes in the fullest, and an error of KEDA's."""
    lines = []
    for service in fleet.services:
        deployment = f'namespace="{namespace}",deployment="{service.name}"'
        hpa = f'namespace="{namespace}",horizontalpodautoscaler="keda-hpa-{service.name}"'
        keda = f'namespace="{namespace}",scaledObject="{service.name}",scaler="queue",triggerIndex="1"'
        lines += [
            f"kube_deployment_spec_replicas{{{deployment}}} 3",
            f"kube_deployment_status_replicas_ready{{{deployment}}} 2",
            f"kube_horizontalpodautoscaler_status_desired_replicas{{{hpa}}} 3",
            f"kube_horizontalpodautoscaler_spec_max_replicas{{{hpa}}} 4",
            f'keda_scaler_detail_errors_total{{{keda},metric="s1-prometheus",type="scaledobject"}} 1',
        ]
        for name, used in (("5d4f8c7b9-abcde", 200), ("5d4f8c7b9-fghij", 300)):
            pod = f'namespace="{namespace}",pod="{service.name}-{name}",container="triton"'
            lines.append(f'container_memory_working_set_bytes{{{pod},image="elasticrec-triton"}} {used}')
            lines.append(f'kube_pod_container_resource_limits{{{pod},resource="memory",unit="byte"}} 400')
            lines.append(f'kube_pod_container_resource_limits{{{pod},resource="cpu",unit="core"}} 1')
    return "\n".join(lines) + "\n"


@contextmanager
def exporting(text: str) -> Iterator[str]:
    """Serve the page on the loopback address, which is yielded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
