"""The gRPC service PrivacyService, which the registry hosts beside RegistryService (docs/decisions/0015)."""

import grpc

from common.database import PageRequest
from common.proto import enum_name, enum_word, repeatable, timestamp
from common.server import caller
from deepseek.privacy.releases import Release, check_count, check_noise, check_rate
from protos.privacy.v1 import privacy_pb2 as pb
from protos.privacy.v1 import privacy_pb2_grpc
from services.registry.budgets import Budgets
from services.registry.ledger import Ledger, NewDebit
from services.registry.ledger_chain import Budget, Debit


class PrivacyServicer(privacy_pb2_grpc.PrivacyServiceServicer):
    """Implements PrivacyService; the proto documents every RPC.

    Args:
        budgets: Creates and lists budgets.
        ledger: Debits and verifies budgets.
    """

    def __init__(self, budgets: Budgets, ledger: Ledger) -> None:
        self._budgets = budgets
        self._ledger = ledger

    def CreateBudget(self, request: pb.CreateBudgetRequest, context: grpc.ServicerContext) -> pb.CreateBudgetResponse:
        budget = self._budgets.create(
            caller(context).tenant,
            request.budget_id,
            request.dataset,
            enum_word(pb.Unit, request.unit),
            request.epsilon,
            request.delta,
            repeatable("CreateBudget", request, request.request_id),
        )
        return pb.CreateBudgetResponse(budget=_budget(budget))

    def GetBudget(self, request: pb.GetBudgetRequest, context: grpc.ServicerContext) -> pb.GetBudgetResponse:
        return pb.GetBudgetResponse(budget=_budget(self._budgets.get(caller(context).tenant, request.name)))

    def ListBudgets(self, request: pb.ListBudgetsRequest, context: grpc.ServicerContext) -> pb.ListBudgetsResponse:
        page = PageRequest(request.page_size, request.page_token)
        budgets, token = self._budgets.list_budgets(caller(context).tenant, page, datasets=request.datasets)
        return pb.ListBudgetsResponse(budgets=map(_budget, budgets), next_page_token=token)

    def PreviewDebit(self, request: pb.PreviewDebitRequest, context: grpc.ServicerContext) -> pb.PreviewDebitResponse:
        planned = [_release(one, f"planned[{index}]") for index, one in enumerate(request.planned)]
        preview = self._ledger.preview(caller(context).tenant, request.budget, _release(request.release), planned)
        return pb.PreviewDebitResponse(
            epsilon_spent=preview.epsilon_spent,
            epsilon_after=preview.epsilon_after,
            fits=preview.fits,
            max_count=preview.max_count,
        )

    def Debit(self, request: pb.DebitRequest, context: grpc.ServicerContext) -> pb.DebitResponse:
        debit, budget = self._ledger.debit(
            caller(context).tenant,
            request.budget,
            NewDebit(_release(request.release), request.run, request.round, request.sealed_sha256),
            repeatable("Debit", request, request.request_id),
        )
        return pb.DebitResponse(debit=_debit(debit), budget=_budget(budget))

    def ListDebits(self, request: pb.ListDebitsRequest, context: grpc.ServicerContext) -> pb.ListDebitsResponse:
        page = PageRequest(request.page_size, request.page_token)
        debits, token = self._budgets.list_debits(caller(context).tenant, request.parent, page)
        return pb.ListDebitsResponse(debits=map(_debit, debits), next_page_token=token)

    def VerifyBudget(self, request: pb.VerifyBudgetRequest, context: grpc.ServicerContext) -> pb.VerifyBudgetResponse:
        known = [(debit.name, debit.sha256) for debit in request.known_debits]
        verified = self._ledger.verify(caller(context).tenant, request.name, known)
        return pb.VerifyBudgetResponse(
            budget=_budget(verified.budget),
            epsilon_recomputed=verified.epsilon_recomputed,
            num_audited_debits=verified.num_audited,
        )


def _release(message: pb.Release, field: str = "release") -> Release:
    return Release(
        check_noise(message.noise_multiplier, f"{field}.noise_multiplier"),
        check_rate(message.sampling_rate, f"{field}.sampling_rate"),
        check_count(message.count, f"{field}.count"),
    )


def _budget(budget: Budget) -> pb.Budget:
    return pb.Budget(
        name=budget.name,
        dataset=budget.dataset,
        unit=enum_name(pb.Unit, budget.unit),
        epsilon=budget.epsilon,
        delta=budget.delta,
        epsilon_spent=budget.epsilon_spent,
        epsilon_left=max(0.0, budget.epsilon - budget.epsilon_spent),
        num_debits=budget.num_debits,
        head_sha256=budget.head_sha256,
        create_time=timestamp(budget.create_us),
    )


def _debit(debit: Debit) -> pb.Debit:
    return pb.Debit(
        name=debit.name,
        release=pb.Release(
            noise_multiplier=debit.noise_multiplier, sampling_rate=debit.sampling_rate, count=debit.count
        ),
        epsilon_spent=debit.epsilon_spent,
        run=debit.run,
        round=debit.round,
        sealed_sha256=debit.sealed_sha256,
        create_time=timestamp(debit.create_us),
        previous_sha256=debit.previous_sha256,
        sha256=debit.sha256,
    )
