// openid-client as a program uses it: the issuer and credentials come as JSON on standard input, what was received and
// observed goes to standard output as JSON.
import * as client from 'openid-client';

let input = '';
for await (const chunk of process.stdin) input += chunk;
const asked = JSON.parse(input);

const issuer = new URL(asked.issuer);
const discover = (id, authentication) =>
  client.discovery(issuer, id, undefined, authentication, { algorithm: 'oauth2', execute: [client.allowInsecureRequests] });

const person = await discover(asked.public_client, client.None());
const basicClient = await discover(asked.client_id, client.ClientSecretBasic(asked.client_secret));
const postClient = await discover(asked.client_id, client.ClientSecretPost(asked.client_secret));

const passwordGrant = (username, password) => client.genericGrantRequest(person, 'password', { username, password });
const introspect = (token) => client.tokenIntrospection(basicClient, token);

async function keys(token) {
  try {
    return (await client.fetchProtectedResource(person, token, new URL('/llm-keys', issuer), 'GET')).status;
  } catch (error) {
    if (!(error instanceof client.WWWAuthenticateChallengeError)) throw error;
    return error.cause[0].parameters.error === 'invalid_token' ? error.status : `${error.status} without invalid_token`;
  }
}
async function refusal(promise) {
  try {
    await promise;
    return 'none';
  } catch (error) {
    if (!(error instanceof client.ResponseBodyError)) throw error;
    return error.error;
  }
}

const wrong_password = await refusal(passwordGrant(asked.username, `${asked.password}x`));
const password = await passwordGrant(asked.username, asked.password);
const refreshed = await client.refreshTokenGrant(person, password.refresh_token);
const basic = await client.clientCredentialsGrant(basicClient);
const post = await client.clientCredentialsGrant(postClient);
const all = [password, refreshed, basic, post].map((answer) => answer.access_token);

const before = { active: await introspect(refreshed.access_token), keys: await Promise.all(all.map(keys)) };
await client.tokenRevocation(person, refreshed.refresh_token);
await client.tokenRevocation(basicClient, basic.access_token);
await client.tokenRevocation(postClient, post.access_token);
const refresh_after = await refusal(client.refreshTokenGrant(person, refreshed.refresh_token));
const inactive = await Promise.all(all.map(introspect));
const keys_after = await Promise.all(all.map(keys));

console.log(JSON.stringify({
  metadata: person.serverMetadata(), wrong_password, password, refreshed, basic, post, ...before, inactive, keys_after, refresh_after,
}));
