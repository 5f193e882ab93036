"""The operations of the served specification, ready to be called."""

# What a path parameter is filled with: something that exists where possible, so that only the credential is wrong.
VALUES = {
    "provider": "openai", "project": "default", "username": "admin", "name": "default", "principal": "admin",
    "id": "00000000-0000-7000-8000-000000000000",
}


class Operation:
    def __init__(self, method, template, spec):
        self.method, self.template, self.spec = method.upper(), template, spec
        self.path = "/".join(VALUES.get(part[1:-1], "x") if part.startswith("{") else part for part in template.split("/"))
        content = spec.get("requestBody", {}).get("content", {})
        self.media_type = next(iter(content), None)

    def __str__(self):
        return f"{self.method} {self.template}"

    @property
    def takes_bearer(self):
        """Whether some security requirement of it is an access token; introspection takes one besides clients."""
        schemes = {scheme for requirement in self.spec.get("security", []) for scheme in requirement}
        return "OAuth2" in schemes or self.template == "/introspect"

    def body(self):
        """Not what it wants, which must not matter to somebody without a credential."""
        if self.media_type == "application/x-www-form-urlencoded":
            return b"token=x"
        return b"{}" if self.media_type else None

    def headers(self):
        return {"Content-Type": self.media_type} if self.media_type else {}


def operations(desk):
    paths = desk.get("/openapi.json").json()["paths"]
    methods = ("get", "put", "post", "delete", "patch", "head", "options")
    return [Operation(method, path, spec) for path, item in paths.items() for method, spec in item.items() if method in methods]
