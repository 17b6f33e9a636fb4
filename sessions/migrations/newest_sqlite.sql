-- revision 0003, written by python -m sessions.migrations.snapshot
CREATE TABLE niels_gpt_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT niels_gpt_schema_pkc PRIMARY KEY (version_num)
);
CREATE TABLE checkpoint (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	fingerprint VARCHAR(200) NOT NULL, 
	parts JSON NOT NULL, 
	config JSON NOT NULL, 
	step BIGINT, 
	path TEXT NOT NULL, 
	created BIGINT NOT NULL, checksum VARCHAR(16), 
	CONSTRAINT uq_checkpoint_fingerprint UNIQUE (fingerprint)
);
CREATE TABLE session (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name VARCHAR(200) NOT NULL, 
	seed BIGINT NOT NULL, 
	settings JSON NOT NULL, 
	head_id BIGINT, 
	forked_from BIGINT, 
	created BIGINT NOT NULL, 
	last_used BIGINT NOT NULL, 
	archived BOOLEAN NOT NULL, forked_at BIGINT, checksum VARCHAR(16), 
	CONSTRAINT uq_session_name UNIQUE (name), 
	CONSTRAINT fk_session_head FOREIGN KEY(head_id) REFERENCES message (id), 
	CONSTRAINT fk_session_forked_from FOREIGN KEY(forked_from) REFERENCES session (id)
);
CREATE INDEX ix_session_last_used ON session (last_used);
CREATE TABLE message (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	session_id BIGINT NOT NULL, 
	parent_id BIGINT, 
	position INTEGER NOT NULL, 
	role VARCHAR(20) NOT NULL, 
	content TEXT NOT NULL, 
	token_ids JSON, 
	status VARCHAR(20) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	created BIGINT NOT NULL, checksum VARCHAR(16), 
	CONSTRAINT fk_message_session FOREIGN KEY(session_id) REFERENCES session (id), 
	CONSTRAINT fk_message_parent FOREIGN KEY(parent_id) REFERENCES message (id), 
	CONSTRAINT ck_message_role CHECK (role IN ('system', 'user', 'assistant')), 
	CONSTRAINT ck_message_status CHECK (status IN ('complete', 'cancelled')), 
	CONSTRAINT ck_message_position CHECK ((parent_id IS NULL) = (position = 0))
);
CREATE INDEX ix_message_session_role ON message (session_id, role, id);
CREATE INDEX ix_message_parent ON message (parent_id);
CREATE TABLE generation (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	session_id BIGINT NOT NULL, 
	user_message_id BIGINT NOT NULL, 
	reply_id BIGINT, 
	checkpoint_id BIGINT NOT NULL, 
	seed BIGINT NOT NULL, 
	attempt BIGINT NOT NULL, 
	sampling JSON NOT NULL, 
	max_new_tokens BIGINT NOT NULL, 
	prompt_hash VARCHAR(200) NOT NULL, 
	trimmed_turns BIGINT NOT NULL, 
	environment JSON NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	finish_reason VARCHAR(200), 
	receipt JSON, 
	timings JSON, 
	error TEXT, 
	created BIGINT NOT NULL, 
	finished BIGINT, forced_ids JSON, digest VARCHAR(64), checkpoint_path TEXT, checksum VARCHAR(16), 
	CONSTRAINT uq_generation_reply UNIQUE (reply_id), 
	CONSTRAINT fk_generation_session FOREIGN KEY(session_id) REFERENCES session (id), 
	CONSTRAINT fk_generation_user_message FOREIGN KEY(user_message_id) REFERENCES message (id), 
	CONSTRAINT fk_generation_reply FOREIGN KEY(reply_id) REFERENCES message (id), 
	CONSTRAINT fk_generation_checkpoint FOREIGN KEY(checkpoint_id) REFERENCES checkpoint (id), 
	CONSTRAINT ck_generation_status CHECK (status IN ('pending', 'complete', 'cancelled', 'failed')), 
	CONSTRAINT ck_generation_reply CHECK ((reply_id IS NOT NULL) = (status IN ('complete', 'cancelled')))
);
CREATE INDEX ix_generation_session_status ON generation (session_id, status);
CREATE INDEX ix_generation_user_message ON generation (user_message_id);
CREATE INDEX ix_session_head ON session (head_id);
CREATE INDEX ix_generation_session ON generation (session_id, id);
CREATE VIRTUAL TABLE message_words USING fts5(content, content='message', content_rowid='id', columnsize=0);
CREATE TRIGGER message_words_added AFTER INSERT ON message BEGIN INSERT INTO message_words (rowid, content) VALUES (new.id, new.content); END;
CREATE TRIGGER message_words_removed AFTER DELETE ON message BEGIN INSERT INTO message_words (message_words, rowid, content) VALUES ('delete', old.id, old.content); END;
CREATE TRIGGER message_words_changed AFTER UPDATE OF id, content ON message BEGIN INSERT INTO message_words (message_words, rowid, content) VALUES ('delete', old.id, old.content); INSERT INTO message_words (rowid, content) VALUES (new.id, new.content); END;
CREATE VIRTUAL TABLE message_trigrams USING fts5(content, content='message', content_rowid='id', columnsize=0, tokenize='trigram');
CREATE TRIGGER message_trigrams_added AFTER INSERT ON message BEGIN INSERT INTO message_trigrams (rowid, content) SELECT new.id, new.content WHERE new.content GLOB '*[฀-໿က-႟ក-៿぀-ヿ㐀-鿿가-힯豈-﫿𠀀-𱍏]*'; END;
CREATE TRIGGER message_trigrams_removed AFTER DELETE ON message BEGIN INSERT INTO message_trigrams (message_trigrams, rowid, content) SELECT 'delete', old.id, old.content WHERE old.content GLOB '*[฀-໿က-႟ក-៿぀-ヿ㐀-鿿가-힯豈-﫿𠀀-𱍏]*'; END;
CREATE TRIGGER message_trigrams_changed AFTER UPDATE OF id, content ON message BEGIN INSERT INTO message_trigrams (message_trigrams, rowid, content) SELECT 'delete', old.id, old.content WHERE old.content GLOB '*[฀-໿က-႟ក-៿぀-ヿ㐀-鿿가-힯豈-﫿𠀀-𱍏]*'; INSERT INTO message_trigrams (rowid, content) SELECT new.id, new.content WHERE new.content GLOB '*[฀-໿က-႟ក-៿぀-ヿ㐀-鿿가-힯豈-﫿𠀀-𱍏]*'; END;
INSERT INTO niels_gpt_schema VALUES ('0003');
