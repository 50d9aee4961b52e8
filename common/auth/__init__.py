"""Who calls, and what they may: certificates, tokens, roles and limits. Deny by default.

What every process needs is imported here; what only servers or the makers of keys need, from its module.
"""

from common.auth.caller import LOCAL, Caller, Role
from common.auth.identity import TENANT_HEADER, Identity, on_behalf_of

__all__ = ["LOCAL", "TENANT_HEADER", "Caller", "Identity", "Role", "on_behalf_of"]
