"""`beholder token`: who may ask a server."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from beholder.cli.console import AsJson, console, errors, print_json

app = typer.Typer(help="Access tokens of served models.", no_args_is_help=True)


@app.command("issue")
def issue(
    scopes: Annotated[str, typer.Option(help="predict:self, predict:any, annotate:self, admin; with commas.")],
    user: Annotated[str | None, typer.Option(help="User id; without it, the token is a service's.")] = None,
    days: Annotated[float, typer.Option(help="How long it is valid.", min=0.0001)] = 30,
    as_json: AsJson = False,
) -> None:
    """Print a new token. It is not kept: anyone who has it may use it, until it expires or is revoked.

    TOKEN=$(beholder token issue --user 7 --scopes predict:self,annotate:self)
    """
    from beholder_serve.auth import AuthError, KeyRing

    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    if user is None and not {"predict:any", "admin"} & set(wanted):
        raise AuthError("--user: left out, so it is a service's; that needs the scope predict:any or admin.")
    ring = KeyRing()
    token = ring.issue(user or "service", wanted, timedelta(days=days))
    token_id = ring.verify(token).token_id
    if as_json:
        print_json({"token": token, "id": token_id, "scopes": wanted, "days": days})
        return
    print(token)
    errors.print(f"id {token_id}, for {', '.join(wanted)}, valid for {days:g} days", markup=False)


@app.command("rotate")
def rotate(
    drop_old: Annotated[bool, typer.Option("--drop-old", help="Revoke all tokens issued so far.")] = False,
    as_json: AsJson = False,
) -> None:
    """Sign with a new key from now on. Tokens signed with older ones stay valid, unless these are dropped."""
    from beholder_serve.auth import KeyRing

    key = KeyRing().rotate(keep_old=not drop_old)
    if as_json:
        print_json({"key": key, "dropped_old": drop_old})
        return
    older = (
        "all older tokens are void" if drop_old else "older tokens stay valid until they expire (--drop-old ends them)"
    )
    console.print(f"signing with key {key}; {older}", markup=False)


@app.command("revoke")
def revoke(token: Annotated[str, typer.Argument(help="The token, or its id.")], as_json: AsJson = False) -> None:
    """Revoke one token before it expires. Servers that run refuse it at once; those of other machines that have the
    same database (BEHOLDER_FEEDBACK), in about a second.
    """
    from beholder.registry.feedback import Feedback
    from beholder_serve.auth import KeyRing

    token_id = KeyRing(feedback=Feedback()).revoke(token)
    if as_json:
        print_json({"revoked": token_id})
        return
    console.print(f"revoked {token_id}", markup=False)
