const { Migration } = require('@mikro-orm/migrations');
exports.Migration20240101000000 = class Migration20240101000000 extends Migration {
  async up() {
    this.addSql('create table users (id int primary key);');
  }
};
