"""Log in, fetch your keys, rotate one, and read in the audit log that all of that happened."""

import os
from datetime import datetime, timezone

from keydesk_client import AuthenticatedClient, Client
from keydesk_client.api.admin_audit import list_audit_events
from keydesk_client.api.admin_provider_keys import set_provider_key
from keydesk_client.api.llm_keys import list_llm_keys
from keydesk_client.api.tokens import issue_token
from keydesk_client.models import AuditEventList, GrantType, LlmKeys, ProviderKey, ProviderKeyRequest, TokenRequest, TokenResponse

DESK = os.environ["KEYDESK_URL"]


def main() -> None:
    begun = datetime.now(timezone.utc)

    # Log in. What a token may do has to be asked for.
    login = TokenRequest(
        grant_type=GrantType.PASSWORD,
        username=os.environ["KEYDESK_USERNAME"],
        password=os.environ["KEYDESK_PASSWORD"],
        scope="llm-keys:read llm-keys:write audit:read",
    )
    token = issue_token.sync(client=Client(DESK), body=login)
    # An answer that is not the one wished for is an OAuthProblem here, and a Problem elsewhere: both say why.
    assert isinstance(token, TokenResponse), token
    client = AuthenticatedClient(DESK, token.access_token)

    # Fetch the keys.
    keys = list_llm_keys.sync(client=client, project="default")
    assert isinstance(keys, LlmKeys), keys
    print("keys:", ", ".join(sorted(keys.additional_keys)))

    # Rotate one: the desk hands out the new key from now on.
    new = ProviderKeyRequest(key=os.environ["NEW_OPENAI_KEY"])
    rotated = set_provider_key.sync("default", "openai", client=client, body=new)
    assert isinstance(rotated, ProviderKey), rotated
    print(f"{rotated.provider}: version {rotated.version}")

    # Read the book: newest first.
    book = list_audit_events.sync(client=client, principal=login.username, since=begun)
    assert isinstance(book, AuditEventList), book
    for event in reversed(book.items):
        print(f"{event.at:%H:%M:%S} {event.actor} {event.action} {event.outcome.value}")


if __name__ == "__main__":
    main()
