// oauth4webapi as a program uses it: the issuer and credentials come as JSON on standard input, what was received and
// observed goes to standard output as JSON.
import * as oauth from 'oauth4webapi';

let input = '';
for await (const chunk of process.stdin) input += chunk;
const asked = JSON.parse(input);

const loopback = { [oauth.allowInsecureRequests]: true };
const issuer = new URL(asked.issuer);

// From the resource to its authorization server (RFC 9728), and from that to the endpoints (RFC 8414).
const resource = await oauth.processResourceDiscoveryResponse(issuer, await oauth.resourceDiscoveryRequest(issuer, loopback));
const as = await oauth.processDiscoveryResponse(
  issuer,
  await oauth.discoveryRequest(issuer, { ...loopback, algorithm: 'oauth2' }),
);

const person = [as, { client_id: asked.public_client }, oauth.None()];
const basicClient = [as, { client_id: asked.client_id }, oauth.ClientSecretBasic(asked.client_secret)];
const postClient = [as, { client_id: asked.client_id }, oauth.ClientSecretPost(asked.client_secret)];

async function passwordGrant(username, password) {
  const response = await oauth.genericTokenEndpointRequest(...person, 'password', { username, password }, loopback);
  return oauth.processGenericTokenEndpointResponse(as, person[1], response);
}
async function refresh(token) {
  const response = await oauth.refreshTokenGrantRequest(...person, token, loopback);
  return oauth.processRefreshTokenResponse(as, person[1], response);
}
async function clientCredentials(client) {
  const response = await oauth.clientCredentialsGrantRequest(...client, {}, loopback);
  return oauth.processClientCredentialsResponse(as, client[1], response);
}
async function introspect(token) {
  const response = await oauth.introspectionRequest(...basicClient, token, loopback);
  return oauth.processIntrospectionResponse(as, basicClient[1], response);
}
async function revoke(client, token, hint) {
  const options = hint ? { ...loopback, additionalParameters: { token_type_hint: hint } } : loopback;
  await oauth.processRevocationResponse(await oauth.revocationRequest(...client, token, options));
}
async function keys(token) {
  try {
    return (await oauth.protectedResourceRequest(token, 'GET', new URL('/llm-keys', issuer), undefined, undefined, loopback)).status;
  } catch (error) {
    // The library reads the challenge that came with the refusal.
    if (!(error instanceof oauth.WWWAuthenticateChallengeError)) throw error;
    return error.cause[0].parameters.error === 'invalid_token' ? error.status : `${error.status} without invalid_token`;
  }
}
async function refusal(promise) {
  try {
    await promise;
    return 'none';
  } catch (error) {
    if (!(error instanceof oauth.ResponseBodyError)) throw error;
    return error.error;
  }
}

const wrong_password = await refusal(passwordGrant(asked.username, `${asked.password}x`));
const password = await passwordGrant(asked.username, asked.password);
const refreshed = await refresh(password.refresh_token);
const basic = await clientCredentials(basicClient);
const post = await clientCredentials(postClient);
const all = [password, refreshed, basic, post].map((answer) => answer.access_token);

// As a resource server would (RFC 9068): signature from jwks_uri, typ, iss, aud, times.
const asResourceServer = new Request(new URL('/llm-keys', issuer), { headers: { authorization: `Bearer ${refreshed.access_token}` } });
const claims = await oauth.validateJwtAccessToken(as, asResourceServer, asked.audience, loopback);

const before = { active: await introspect(refreshed.access_token), keys: await Promise.all(all.map(keys)) };
await revoke(person, refreshed.refresh_token, 'refresh_token');
await revoke(basicClient, basic.access_token);
await revoke(postClient, post.access_token, 'refresh_token'); // the hint may be wrong
const refresh_after = await refusal(refresh(refreshed.refresh_token));
const inactive = await Promise.all(all.map(introspect));
const keys_after = await Promise.all(all.map(keys));

console.log(JSON.stringify({
  resource, metadata: as, claims, wrong_password, password, refreshed, basic, post, ...before, inactive, keys_after, refresh_after,
}));
