"""Queries for people: what the dashboard draws and the alerts compare.

Triton's metrics and the router's own are of pods that the PodMonitor scrapes. Those of replicas and memory are
kube-state-metrics', the kubelet's (cAdvisor) and KEDA's, which a cluster has if its Prometheus scrapes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.scaling.queries import QUANTILE, select

FAILED_SHARE = 0.01
"""Of queries or calls: what the dashboard marks and the alerts fire at."""

_SOME_QPS = 0.001  # a divisor where there is no traffic


@dataclass(frozen=True, slots=True)
class Series:
    """Of a fleet in a namespace; rates are over `window`, a duration of PromQL. Each method answers an expression."""

    fleet: BuiltFleet
    namespace: str
    window: str

    def queries_per_s(self) -> str:
        """Queries that the front ends answered."""
        return self._front_rate("success")

    def failures_per_s(self) -> str:
        """Queries that they failed, by reason; Triton counts one whose step failed at the ensemble twice."""
        return f"sum by (reason) ({self._failure_rates()}) / 2"

    def failed_share(self) -> str:
        """Of all queries, counted likewise."""
        failed = f"sum({self._failure_rates()}) / 2"
        return f"({failed}) / clamp_min({self._front_rate('success')} + {failed}, {_SOME_QPS})"

    def latency_ms(self) -> str:
        """The quantiles of the slowest front end, over some 60 s; without traffic nothing."""
        return f"max by (quantile) (nv_inference_request_summary_us{self._front()} >= 0) / 1000"

    def slowest_us(self) -> str:
        """The rules' quantile of the slowest front end."""
        slow = select(self.namespace, self.fleet.frontend.model, quantile=f"{QUANTILE:g}")
        return f"max(nv_inference_request_summary_us{slow} >= 0)"

    def calls_per_s(self) -> str:
        """Requests that each model answered, a series each."""
        return f"sum by (model) (rate(nv_inference_request_success{self._all()}[{self.window}]))"

    def queue_ms(self) -> str:
        """The mean wait for an instance, of each model that has some."""
        return self._mean_ms("nv_inference_queue_duration_us")

    def compute_ms(self) -> str:
        """The mean time in an instance."""
        return self._mean_ms("nv_inference_compute_infer_duration_us")

    def scraped_pods(self) -> str:
        """Pods that Prometheus sees, by the model that stands for the service."""
        return f"count by (model) (nv_inference_request_success{self._services()})"

    def unscraped(self) -> str:
        """An element for each service of which Prometheus sees no pod."""
        models = [service.model for service in self.fleet.services]
        return " or ".join(f"absent(nv_inference_request_success{select(self.namespace, model)})" for model in models)

    def remote_ms(self) -> str:
        """The mean time of the front ends' calls, by the embedding service."""
        took, calls = self._remote("remote_call_duration_us_total"), self._remote("remote_calls_total")
        return f"{took} / clamp_min({calls}, {_SOME_QPS}) / 1000"

    def remote_wait_ms(self) -> str:
        """The mean time that a query waits in a front end's router before its call, by the embedding service."""
        waited, queries = self._remote("remote_wait_us_total"), self._remote("remote_queries_total")
        return f"{waited} / clamp_min({queries}, {_SOME_QPS}) / 1000"

    def queries_per_call(self) -> str:
        """How many the front ends join in a call, by the embedding service."""
        queries, calls = self._remote("remote_queries_total"), self._remote("remote_calls_total")
        return f"{queries} / clamp_min({calls}, {_SOME_QPS})"

    def remote_failures_per_s(self) -> str:
        """Their calls that failed, by service and reason; most are answered by another replica."""
        return self._remote("remote_failures_total", "service, reason")

    def remote_failed_share(self) -> str:
        """Of all calls, by service."""
        failed, answered = self._remote("remote_failures_total"), self._remote("remote_calls_total")
        return f"{failed} / clamp_min({answered} + {failed}, {_SOME_QPS})"

    def retries_per_s(self) -> str:
        """Calls sent again, by service."""
        return self._remote("retries_total")

    def hedges_per_s(self) -> str:
        """Calls sent to a second replica, by service."""
        return self._remote("hedges_total")

    def degraded_per_s(self) -> str:
        """Queries scored without a service, by that service."""
        return self._remote("degraded_queries_total")

    def overloaded_per_s(self) -> str:
        """Queries that the front ends refused for being too many."""
        return f"sum(rate(elasticrec_overloaded_queries_total{self._router()}[{self.window}]))"

    def set_aside(self) -> str:
        """Replicas that a front end does not ask any more, by service; of the front end with the most."""
        return f"max by (service) (elasticrec_replicas_aside{self._router()})"

    def wanted_pods(self) -> str:
        """What the HPA asks for, by Deployment."""
        return self._of_hpa("kube_horizontalpodautoscaler_status_desired_replicas")

    def most_pods(self) -> str:
        """What it may ask for at most."""
        return self._of_hpa("kube_horizontalpodautoscaler_spec_max_replicas")

    def ready_pods(self) -> str:
        """Pods that serve, by Deployment."""
        return f"sum by (deployment) (kube_deployment_status_replicas_ready{self._deployments()})"

    def specified_pods(self) -> str:
        """Pods that the Deployment asks for."""
        return f"sum by (deployment) (kube_deployment_spec_replicas{self._deployments()})"

    def memory_bytes(self) -> str:
        """Of the fullest pod of each Deployment."""
        return self._of_pods("container_memory_working_set_bytes")

    def memory_limit_bytes(self) -> str:
        """Where the kernel would end it."""
        return self._of_pods("kube_pod_container_resource_limits", ',resource="memory"')

    def scaling_errors(self) -> str:
        """Metrics that KEDA could not have, by trigger, over the window.

        It counts none any more once the fallback has taken over. Its own `namespace` label is `exported_namespace`
        where it is scraped without honorLabels.
        """
        names = "|".join(service.name for service in self.fleet.services)
        errors = " or ".join(
            f'increase(keda_scaler_detail_errors_total{{{label}="{self.namespace}",scaledObject=~"{names}"}}[{self.window}])'
            for label in ("namespace", "exported_namespace")
        )
        return f"sum by (scaledObject, scaler) ({errors})"

    def _front(self) -> str:
        return select(self.namespace, self.fleet.frontend.model)

    def _router(self) -> str:
        return select(self.namespace, *self.fleet.frontend.steps)

    def _services(self) -> str:
        return select(self.namespace, *(service.model for service in self.fleet.services))

    def _all(self) -> str:
        steps = (step for service in self.fleet.services for step in service.steps)
        return select(self.namespace, *dict.fromkeys([self.fleet.model, *steps]))

    def _front_rate(self, outcome: str) -> str:
        return f"sum(rate(nv_inference_request_{outcome}{self._front()}[{self.window}]))"

    def _failure_rates(self) -> str:
        return f"rate(nv_inference_request_failure{self._front()}[{self.window}])"

    def _mean_ms(self, duration: str) -> str:
        took = f"sum by (model) (rate({duration}{self._all()}[{self.window}]))"
        return f"{took} / clamp_min({self.calls_per_s()}, {_SOME_QPS}) / 1000"

    def _remote(self, counter: str, by: str = "service") -> str:
        return f"sum by ({by}) (rate(elasticrec_{counter}{self._router()}[{self.window}]))"

    def _deployments(self) -> str:
        names = "|".join(service.name for service in self.fleet.services)
        return f'{{namespace="{self.namespace}",deployment=~"{names}"}}'

    def _of_hpa(self, gauge: str) -> str:
        """By Deployment: KEDA calls the HPA of a ScaledObject, which has the Deployment's name, keda-hpa-NAME."""
        names = "|".join(f"keda-hpa-{service.name}" for service in self.fleet.services)
        found = f'{gauge}{{namespace="{self.namespace}",horizontalpodautoscaler=~"{names}"}}'
        renamed = f'label_replace({found}, "deployment", "$1", "horizontalpodautoscaler", "keda-hpa-(.*)")'
        return f"max by (deployment) ({renamed})"

    def _of_pods(self, gauge: str, further: str = "") -> str:
        """By Deployment: a pod is called NAME-TEMPLATE-POD."""
        names = "|".join(service.name for service in self.fleet.services)
        found = f'{gauge}{{namespace="{self.namespace}",container="triton",pod=~"({names})-.*"{further}}}'
        return f'max by (deployment) (label_replace({found}, "deployment", "$1", "pod", "(.*)-[^-]+-[^-]+"))'
