"""Declarations of services, and what is said about wrong ones."""

from dataclasses import replace

import pytest

from common.auth import Role
from common.service import Service, Uses, declaration_faults
from deepseek.services import SERVICES

REGISTRY, INGEST = SERVICES["registry"], SERVICES["ingest"]
CLOCK = Service(name="clock", contract="deepseek.clock.v1.ClockService", port=7100, metrics_port=9100)


def test_the_declarations_of_the_mesh_are_right() -> None:
    assert declaration_faults(SERVICES.values(), SERVICES) == []


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (replace(CLOCK, port=7001), "port 7001 is declared by both registry and clock"),
        (replace(CLOCK, metrics_port=7002), "port 7002 is declared by both ingest and clock"),
        (replace(CLOCK, metrics_port=7100), "port 7100 is declared by both clock and clock"),
        (replace(CLOCK, calls={"tower": Role.READER}), "service clock calls tower, which is not declared"),
        (
            replace(CLOCK, calls={"registry": Role.READER}),
            "service clock calls registry as reader, which registry does not grant",
        ),
        (
            replace(CLOCK, calls={"clock": Role.READER}, grants={"clock": Role.READER}),
            "service clock calls clock but is declared before it",
        ),
        (
            replace(CLOCK, grants={"ingest": Role.READER}),
            "service clock grants a role to ingest, which does not call it",
        ),
        (replace(CLOCK, uses=frozenset({Uses.ARTIFACTS})), "service clock serves artifacts but uses no store"),
    ],
)
def test_a_wrong_declaration_is_one_line_that_says_which(wrong: Service, fault: str) -> None:
    services = [*SERVICES.values(), wrong]
    assert declaration_faults(services, [service.name for service in services]) == [fault]


def test_more_than_is_granted_is_a_fault() -> None:
    services = [replace(REGISTRY, grants={**REGISTRY.grants, "ingest": Role.READER}), *list(SERVICES.values())[1:]]
    assert declaration_faults(services, SERVICES) == [
        "service ingest calls registry as writer, which registry does not grant"
    ]


def test_folders_and_declarations_belong_together() -> None:
    assert declaration_faults([*SERVICES.values(), CLOCK], SERVICES) == [
        "service clock is declared but has no folder services/clock"
    ]
    assert declaration_faults(SERVICES.values(), [*SERVICES, "clock"]) == ["folder services/clock has no declaration"]
    assert declaration_faults([*SERVICES.values(), INGEST], SERVICES)[0] == "service ingest is declared twice"


def test_a_service_hosts_what_it_uses() -> None:
    assert INGEST.contracts == (
        "deepseek.ingest.v1.IngestService",
        "deepseek.job.v1.JobService",
        "deepseek.artifact.v1.ArtifactService",
        "deepseek.upkeep.v1.UpkeepService",
        "deepseek.audit.v1.AuditService",
    )
    assert SERVICES["registry"].contracts == (
        "deepseek.registry.v1.RegistryService",
        "deepseek.privacy.v1.PrivacyService",
        "deepseek.upkeep.v1.UpkeepService",
        "deepseek.audit.v1.AuditService",
    )
