// A real OpenID provider (panva's oidc-provider) for tests: node oidc_provider.mjs NODE_MODULES PORT REDIRECT_URI
//
// Its development pages log anybody in: the login name is the account. `groups` are ["ops"] for names that begin with "op",
// else ["staff"]; the e-mail address of "unverified" is not verified. POST /rotate: new signing keys, the old ones are gone.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const [modules, port, redirect] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));
const issuer = `http://127.0.0.1:${port}`;

const key = (kid) => ({
  ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'RS256',
});

function handler(kid) {
  const client = { redirect_uris: [redirect], response_types: ['code'], grant_types: ['authorization_code'] };
  const provider = new Provider(issuer, {
    clients: [
      { ...client, client_id: 'pool', client_secret: 'a%secret/of:the+pool&client', token_endpoint_auth_method: 'client_secret_basic' },
      { ...client, client_id: 'poster', client_secret: 'another-secret-of-a-client', token_endpoint_auth_method: 'client_secret_post' },
      { ...client, client_id: 'public', token_endpoint_auth_method: 'none' },
    ],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], groups: ['groups'] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: async () => ({
        sub: id, email: `${id}@example.com`, email_verified: id !== 'unverified', groups: id.startsWith('op') ? ['ops'] : ['staff'],
      }),
    }),
    pkce: { required: () => true },
    cookies: { keys: ['of this test'] },
    jwks: { keys: [key(kid)] },
  });
  return provider.callback();
}

let serve = handler('one');
createServer((request, response) => {
  if (request.method === 'POST' && request.url === '/rotate') {
    serve = handler('two');
    response.end('rotated');
  } else {
    serve(request, response);
  }
}).listen(Number(port), '127.0.0.1', () => console.log('listening'));
