"""Authentication and authorization: certificates, tokens, roles and limits. Deny by default.

This package exports the names that declarations of services need, and imports no gRPC. All other names are imported
from their modules.
"""

from common.auth.caller import LOCAL, Caller, Role

__all__ = ["LOCAL", "Caller", "Role"]
