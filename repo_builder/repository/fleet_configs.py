"""The `config.pbtxt` files of the fleet layout: what differs from the single layout's.

    ensemble NAME      dense, indices -> score; with `missing_shard: degrade` also degraded BOOL [B, 1]
    NAME_router        the same inputs -> sums FP32 [B, tables * dim], asked of the embedding services over gRPC
    NAME_dense         dense, sums -> score

Each service is a server of its own, so instances are the plan's `instances` alone: a replica is a server more.

No model has a queue policy of Triton's, so a shard's queue has no bound of its own. Triton 2.51 refuses at once what
`max_queue_size` has no place for, but leaves others lying until its batcher looks again after 500 ms (compare
triton-inference-server/server issue 8870). Measured on a shard, bound 8, no timeout, 16 clients in a loop: 48 of 451
answers took over 300 ms, where without the bound all 8,572 took less than 33 ms; native shards 48 of 1,048 against none
of 16,156. With a bound of 2 even a lone client met it, and a timeout of 50 ms made errors of the same half seconds. So
what may wait at a shard is bounded where queries come in: by `max_in_flight` of each front end, which answers one query
more with an error at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.partition.plan import Plan, Service
from repo_builder.repository import configs
from repo_builder.spec import Spec

SUMS = "sums"  # the dense model's one input beside `dense`
DEGRADED = "degraded"
GRPC_PORT = 8001


def one_replica(plan: Plan) -> Plan:
    """What a single server of each service runs: the plan with one replica of each."""
    return replace(plan, services=tuple(replace(service, replicas=1, added=0) for service in plan.services))


def ensemble_config(spec: Spec, plan: Plan, metadata: Mapping[str, str]) -> pb.ModelConfig:
    """The model that clients call: the contract of the single layout, by two steps."""
    config = configs.ensemble_config(spec, replace(plan, services=(configs.dense_service(plan),)), metadata)
    router, dense = config.ensemble_scheduling.step
    router.output_map.update({name: name for name in (SUMS, *_flags(spec))})
    dense.input_map[SUMS] = SUMS
    config.output.extend(pb.ModelOutput(name=name, data_type=pb.TYPE_BOOL, dims=[-1, 1]) for name in _flags(spec))
    return config


def router_config(spec: Spec, plan: Plan, metadata: Mapping[str, str]) -> pb.ModelConfig:
    """The fan-out router: queries that wait for it are joined, and those under way do not block it."""
    config = pb.ModelConfig(name=configs.model_name(spec, "router"), max_batch_size=configs.MAX_BATCH_ROWS)
    config.backend = configs.native_backend("fanout")
    for item in configs.ensemble_config(spec, plan, {}).input:
        config.input.append(pb.ModelInput(name=item.name, data_type=item.data_type, dims=item.dims[1:]))
    config.output.append(pb.ModelOutput(name=SUMS, data_type=pb.TYPE_FP32, dims=[len(spec.tables) * spec.dim]))
    divisors = configs.divisors_inputs(spec).items()
    config.output.extend(pb.ModelOutput(name=name, data_type=pb.TYPE_FP32, dims=[width]) for name, width in divisors)
    config.output.extend(pb.ModelOutput(name=name, data_type=pb.TYPE_BOOL, dims=[1]) for name in _flags(spec))
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=configs.dense_service(plan).instances)
    for key, value in metadata.items():
        config.parameters[key].string_value = value
    config.dynamic_batching.SetInParent()
    return config


def dense_config(spec: Spec, plan: Plan, metadata: Mapping[str, str]) -> pb.ModelConfig:
    """The dense layers over whole sums."""
    sums = {SUMS: len(spec.tables) * spec.dim}
    return configs.dense_config(spec, one_replica(plan), sums, metadata)


def embedding_config(
    spec: Spec, service: Service, metadata: Mapping[str, str], shard_backend: configs.ShardBackend
) -> pb.ModelConfig:
    """An embedding service on its own server; the answers' type is `fleet.sums_dtype`."""
    config = configs.embedding_config(spec, replace(service, replicas=1, added=0), metadata, shard_backend)
    if spec.fleet.sums_dtype == "fp16":
        config.output[0].data_type = pb.TYPE_FP16
    return config


def fanout_settings(spec: Spec, plan: Plan, version: str) -> dict[str, Any]:
    """`fanout.json`: what the router must know of its fleet, as `triton_backends/fanout/settings.c` reads it.

    Whole numbers alone; `hedge_quantile_ppm` is in millionths, and 0 where nothing is to be hedged.
    """
    return {
        "name": configs.model_name(spec, "router"),
        "version": version,
        "tables": len(spec.tables),
        "dim": spec.dim,
        "deadline_us": round(1000 * spec.serving.sla_ms),
        "hedge_quantile_ppm": round(1_000_000 * (spec.fleet.hedge_quantile or 0)),
        "max_in_flight": spec.fleet.max_in_flight,
        "degrade": int(spec.fleet.missing_shard == "degrade"),
        "half_sums": int(spec.fleet.sums_dtype == "fp16"),
        "services": [
            {
                "name": service.name,
                "model": configs.model_name(spec, service.name),
                "tables": configs.held_tables(spec, service),
            }
            for service in plan.embedding_services
        ],
    }


def default_addresses(spec: Spec, plan: Plan) -> dict[str, str]:
    """`fleet.json`: where the router looks without ELASTICREC_ADDRESSES; headless Services in its own namespace."""
    return {
        service.name: f"dns:///{kubernetes_name(spec, service.name)}:{GRPC_PORT}" for service in plan.embedding_services
    }


def kubernetes_name(spec: Spec, service: str) -> str:
    """The name of a service's objects in a cluster, where names take neither capitals nor underscores."""
    return f"{spec.name}-{service}".lower().replace("_", "-")


def _flags(spec: Spec) -> list[str]:
    return [DEGRADED] if spec.fleet.missing_shard == "degrade" else []
