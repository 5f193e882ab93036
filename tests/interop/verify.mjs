// Verifies an access token as a resource server written in JavaScript would: what is expected comes as JSON on standard
// input, the claims or jose's error code go to standard output.
import { createRemoteJWKSet, jwtVerify } from 'jose';

let input = '';
for await (const chunk of process.stdin) input += chunk;
const { token, jwks, issuer, audience, algorithm, typ } = JSON.parse(input);

try {
  const { payload } = await jwtVerify(token, createRemoteJWKSet(new URL(jwks)), {
    issuer,
    audience,
    typ,
    algorithms: [algorithm],
    requiredClaims: ['sub', 'client_id', 'iat', 'exp', 'jti', 'scope'],
  });
  console.log(JSON.stringify(payload));
} catch (error) {
  console.log(JSON.stringify({ code: error.code }));
  process.exitCode = 1;
}
