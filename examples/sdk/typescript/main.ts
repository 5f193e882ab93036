// Log in, fetch your keys, rotate one, and read in the audit log that all of that happened.

import { issueToken, listAuditEvents, listLlmKeys, setProviderKey } from "./keydesk-client";
import { client } from "./keydesk-client/client.gen";

function setting(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

async function main(): Promise<void> {
  const begun = new Date().toISOString();
  const username = setting("KEYDESK_USERNAME");
  // With throwOnError an answer that is not the one wished for is thrown: an OAuthProblem here, a Problem elsewhere.
  client.setConfig({ baseUrl: setting("KEYDESK_URL"), throwOnError: true });

  // Log in. What a token may do has to be asked for.
  const { data: token } = await issueToken<true>({
    body: {
      grant_type: "password",
      username,
      password: setting("KEYDESK_PASSWORD"),
      scope: "llm-keys:read llm-keys:write audit:read",
    },
  });
  // The desk takes one credential per request: the token goes where a bearer token goes, and nothing into X-API-Key.
  client.setConfig({ auth: ({ type }) => (type === "http" ? token.access_token : undefined) });

  // Fetch the keys.
  const { data: keys } = await listLlmKeys<true>({ query: { project: "default" } });
  console.log("keys:", Object.keys(keys).sort().join(", "));

  // Rotate one: the desk hands out the new key from now on.
  const { data: rotated } = await setProviderKey<true>({
    path: { project: "default", provider: "openai" },
    body: { key: setting("NEW_OPENAI_KEY") },
  });
  console.log(`${rotated.provider}: version ${rotated.version}`);

  // Read the book: newest first.
  const { data: book } = await listAuditEvents<true>({ query: { principal: username, since: begun } });
  for (const event of book.items.reverse()) {
    console.log(event.at.slice(11, 19), event.actor, event.action, event.outcome);
  }
}

main().catch((problem: unknown) => {
  console.error(problem);
  process.exitCode = 1;
});
