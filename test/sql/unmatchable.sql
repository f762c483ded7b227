-- Ids that can match no event: enrolling them warns of what looks like a uuid, and a
-- view lists whatever no guarded column can hold.
CREATE EXTENSION optout;

-- In every form that the type reads
SELECT optout.enroll('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
SELECT optout.enroll('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11');
SELECT optout.enroll('{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}');
SELECT optout.enroll('a0eebc999c0b4ef8bb6d6bb9bd380a11');
SELECT optout.enroll('{A0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11}');
-- and some that it does not
SELECT optout.enroll(ARRAY['{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a111',
	'a0eebc99--9c0b4ef8-bb6d-6bb9bd380a11', 'a0eebc999c0b4ef8bb6d6bb9bd380a11-', '-a0eebc999c0b4ef8bb6d6bb9bd380a11',
	'a0eebc999c0b4ef8bb6d6bb9bd380a1g', 'a0eebc99 9c0b4ef8bb6d6bb9bd380a11', 'a0eebc999c0b4ef8bb6d6bb9bd380a11}', repeat('é', 16)]);
-- one warning for any number of them
SELECT optout.enroll(array_agg(upper(md5(n::text))) || '{alice,007,7}'::text[]) FROM generate_series(1, 1000) n;
SELECT optout.opt_out('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11');
SELECT optout.opt_out(ARRAY['007', 'a0eebc999c0b4ef8bb6d6bb9bd380a11', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}']);
SELECT optout.sign_in('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11');
-- to take them back is no reason to warn
SELECT optout.opt_in('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11');
SELECT optout.forget('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11');
-- an alias that matches nothing protects nobody either
SELECT optout.enroll('alice');
SELECT optout.link('alice', ARRAY['device', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A12']);
SELECT optout.unlink(ARRAY['device', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A12'], force => true);
TRUNCATE optout.product_user, optout.opt_out_period;

-- What no guarded column can hold
INSERT INTO optout.product_user (user_id)
SELECT unnest(ARRAY['7', '007', '+7', '-7', '-0', '0', ' 7', '7 ', '7.0', '32767', '32768', '-32768', '-32769', '2147483647', '2147483648',
	'-2147483648', '-2147483649', '9223372036854775807', '9223372036854775808', '-9223372036854775808', '-9223372036854775809', repeat('9', 30),
	'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'ééééé', 'éééééé', repeat('n', 63), repeat('n', 64)]);
SELECT * FROM optout.unmatchable;

-- It tells what is in the view from what the type itself says.
CREATE DOMAIN short AS varchar(5);
CREATE DOMAIN shorter AS short;
CREATE FUNCTION holds(type text, id text) RETURNS boolean LANGUAGE plpgsql
AS $$
DECLARE
	held text;
BEGIN
	EXECUTE format('SELECT CAST(%L::%s AS text)', id, type) INTO held;
	RETURN held = id;
EXCEPTION WHEN data_exception THEN
	RETURN false;
END $$;
CREATE FUNCTION differences(type text) RETURNS TABLE (id text, view_says boolean, type_says boolean) LANGUAGE plpgsql
AS $$
BEGIN
	EXECUTE format('CREATE TABLE event (user_id %s)', type);
	PERFORM optout.guard('event');
	RETURN QUERY
	SELECT u.user_id, m.user_id IS NULL, holds(type, u.user_id)
	  FROM optout.user_list u LEFT JOIN optout.unmatchable m USING (organization, user_id)
	 WHERE (m.user_id IS NULL) <>
		   -- a cast cuts off what an assignment refuses
		   (holds(type, u.user_id) AND (type !~ 'short' OR char_length(u.user_id) <= 5));
	DROP TABLE event;
END $$;
SELECT t AS type, d.*
  FROM unnest('{text,varchar,varchar(5),char(5),name,uuid,bigint,integer,smallint,short,shorter}'::text[]) AS t, differences(t) AS d;

-- Any guarded column will do; opt-outs of users who have left the directory count.
CREATE TABLE by_number (user_id bigint);
CREATE TABLE by_uuid (id uuid);
SELECT optout.guard('by_number'), optout.guard('by_uuid', 'id');
SELECT optout.opt_out(ARRAY['7', '007']);
DELETE FROM optout.product_user WHERE user_id NOT IN ('7', '+7', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11');
SELECT optout.link('7', ARRAY['77', '077']), optout.link('+7', ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12', 'device']);
SELECT * FROM optout.unmatchable ORDER BY user_id;
-- and everybody sees those of their organizations
SELECT optout.enroll('+1', 'acme');
CREATE ROLE regress_reader;
SELECT optout.grant_authority('regress_reader', 'acme', 'read');
SET ROLE regress_reader;
SELECT * FROM optout.unmatchable;
RESET ROLE;
SELECT optout.revoke_authority('regress_reader', 'acme', 'read');

DROP TABLE by_number, by_uuid;
DROP FUNCTION holds, differences;
DROP DOMAIN shorter, short;
DROP EXTENSION optout;
DROP ROLE regress_reader;
