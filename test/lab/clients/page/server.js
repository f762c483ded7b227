// server.js PORT [ROLE]: the page, and PostGraphile for what it asks for.
//
// An example.  Whoever reaches the port acts as ROLE, for the organization acme: yours
// has to know who has signed in, and say so in optout.actor.
'use strict';
const fs = require('fs');
const http = require('http');
const path = require('path');
const { postgraphile } = require('postgraphile');

const [port, role = 'acme_admin'] = process.argv.slice(2);
const { PGHOST, PGPORT, PGDATABASE, PGPASSWORD } = process.env;
const page = fs.readFileSync(path.join(__dirname, 'opt_out.html'));

const graphql = postgraphile(
	{ host: PGHOST, port: Number(PGPORT), database: PGDATABASE, user: 'page', password: PGPASSWORD }, 'opt_out_page', {
		// of the transaction that each request is
		pgSettings: { role, 'optout.organization': 'acme', 'optout.actor': 'admin@acme.example' },
		ignoreRBAC: false,
		graphiql: false,
		disableQueryLog: true,
		extendedErrors: ['hint', 'errcode'],
	});

http.createServer((request, response) => {
	if (request.url === '/') {
		response.setHeader('Content-Type', 'text/html; charset=utf-8');
		response.end(page);
	} else
		graphql(request, response);
}).listen(port, '127.0.0.1', () => console.log('ready', process.pid));
